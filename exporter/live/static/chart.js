// Draws scores over steps from points that are sent once: a band and lines an episode, a
// gap between two. Follows the newest steps until the reader zooms: by dragging, by the
// buttons, or by keys (arrows read, + and - zoom, Escape follows again).
"use strict";
(() => {
  const HEIGHT = 190, LEFT = 46, RIGHT = 8, TOP = 18, BOTTOM = 18; // pixels
  const STEPS = 100, SEEN = 60; // followed are so many steps, or so many that were seen
  const NARROW = 4, TINTS = 6;
  const charts = new WeakMap();

  function svg(name, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function html(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const short = (value) => String(Number(value.toPrecision(4)));
  const tint = (text) => [...text].reduce((sum, c) => (31 * sum + c.charCodeAt(0)) % 9973, 7) % TINTS;
  const pairs = (flat) => flat.flatMap((key, n) => (n % 2 ? [] : [[key, flat[n + 1]]]));

  // Round numbers between low and high, about so many.
  function ticks(low, high, about) {
    const raw = (high - low) / about, unit = 10 ** Math.floor(Math.log10(raw));
    const step = unit * ([1, 2, 5].find((n) => n * unit >= raw) || 10);
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(at * step);
    return found;
  }

  class Chart {
    constructor(box) {
      this.points = [];
      this.lines = this.colours = [];
      this.range = null; // what is shown: null follows, "all" is all, else [from, to]
      this.cursor = null; // the place that is read
      this.plot = svg("svg", { tabindex: 0, role: "slider", "aria-label": box.dataset.name, "aria-valuenow": 0 });
      this.tip = html("div", { className: "tip", hidden: true });
      const button = (text, title, act) => html("button", { type: "button", textContent: text, title, onclick: act });
      this.follow = button("Follow", "Follow the newest steps", () => this.show(null));
      this.all = button("All", "Show all steps that are kept", () => this.show("all"));
      box.append(html("div", { className: "zoom" }, this.follow, this.all), this.plot, this.tip);
      this.plot.onpointermove = (event) => this.moved(event);
      this.plot.onpointerdown = (event) => this.taken(event);
      this.plot.onpointerup = (event) => this.dropped(event);
      this.plot.onpointerleave = () => (this.drag = this.at = null, this.read(null));
      this.plot.onblur = () => this.read(null);
      this.plot.onkeydown = (event) => this.key(event);
      new ResizeObserver(() => this.later()).observe(box);
    }

    // See DrawnChart in hub.py for what comes.
    take({ lines, colours, points, begin, from }) {
      if (lines) [this.lines, this.colours] = [lines, colours];
      if (begin) this.points = [];
      let of = begin;
      while (this.points.length && this.points[0][0] < from) of = this.points.shift()[3] || of;
      if (points.length) while (this.points.length && this.points.at(-1)[0] >= points[0][0]) this.points.pop();
      this.points.push(...points.map(([place, step, flat, of]) => [place, step, new Map(pairs(flat)), of]));
      const first = this.points[0];
      if (first && !first[3]) first[3] = of;
      this.later();
    }

    later() {
      if (!this.due) this.due = requestAnimationFrame(() => (this.due = 0, this.draw()));
    }

    show(range) {
      this.range = range;
      this.later();
    }

    // From where to where, in places.
    window() {
      const last = this.points.at(-1)[0], first = this.points[0][0];
      if (this.range === "all") return [first, last];
      if (this.range) return this.range;
      const seen = this.points[Math.max(0, this.points.length - SEEN)][0];
      return [Math.max(first, Math.min(last - STEPS, seen)), last];
    }

    draw() {
      const width = this.plot.clientWidth;
      if (!this.points.length || width < LEFT + RIGHT + 20) return;
      let [from, to] = this.window();
      if (to - from < NARROW) [from, to] = [to - NARROW, to];
      const shown = this.points.filter(([place]) => place >= from && place <= to);
      let low = Infinity, high = -Infinity;
      for (const value of shown.flatMap((point) => [...point[2].values()]))
        if (value !== null) [low, high] = [Math.min(low, value), Math.max(high, value)];
      if (low > high) [low, high] = [0, 1];
      const room = (high - low || Math.abs(high) || 1) * 0.06;
      [low, high] = [low - room, high + room];
      this.place = (x) => from + ((x - LEFT) / (width - LEFT - RIGHT)) * (to - from);
      const x = (place) => LEFT + ((place - from) / (to - from)) * (width - LEFT - RIGHT);
      const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
      const parts = [], inside = [];
      for (const value of ticks(low, high, 4)) {
        parts.push(svg("path", { class: "grid", d: `M${LEFT} ${y(value).toFixed(1)}H${width - RIGHT}` }));
        parts.push(svg("text", { class: "y", x: LEFT - 6, y: y(value) + 4 }, short(value)));
      }
      this.episodes = this.bands();
      for (const band of this.episodes) {
        const [begin, end] = [Math.max(x(band.from), LEFT), Math.min(x(band.to), width - RIGHT)];
        if (end < LEFT || begin > width - RIGHT) continue;
        const size = Math.max(2, end - begin);
        parts.push(svg("rect", { class: `band tint-${tint(band.label)}`, x: begin - 1, y: TOP, width: size + 2, height: HEIGHT - TOP - BOTTOM }));
        if (band.label.length * 6.5 < size) parts.push(svg("text", { class: "of", x: begin, y: TOP - 5 }, band.label));
        for (const line of band.lines) {
          let d = "", pen = "M";
          for (const point of band.points) {
            const value = point[2].get(line) ?? null;
            if (value !== null) d += `${pen}${x(point[0]).toFixed(1)} ${y(value).toFixed(1)}${pen === "M" ? "h.01" : ""}`;
            pen = value !== null ? "L" : "M";
          }
          const lone = band.points.length === 1 ? " lone" : "";
          inside.push(svg("path", { class: `line-${this.colours[line]}${line === band.target ? " target" : ""}${lone}`, d }));
        }
      }
      const steps = shown.length ? [shown[0], shown.at(-1)] : [];
      steps.forEach((point, n) => parts.push(
        svg("text", { class: n ? "x end" : "x", x: n ? width - RIGHT : LEFT, y: HEIGHT - 4 }, width < 480 ? `step ${point[1]}` : this.where(point))));
      const view = svg("svg", { x: LEFT - 3, width: width - LEFT - RIGHT + 6, height: HEIGHT, viewBox: `${LEFT - 3} 0 ${width - LEFT - RIGHT + 6} ${HEIGHT}` }, ...inside);
      const at = this.nearest(this.cursor);
      if (at) parts.push(svg("path", { class: "cursor", d: `M${x(at[0]).toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}` }));
      this.plot.replaceChildren(...parts, view);
      this.tell(at, at ? x(at[0]) : 0, width);
      this.follow.setAttribute("aria-pressed", this.range === null);
      this.all.setAttribute("aria-pressed", this.range === "all");
    }

    // The episodes, each with its points.
    bands() {
      const found = [];
      for (const point of this.points) {
        const [place, , values, begin] = point;
        if (begin) {
          const [label, title, target] = begin;
          found.push({ label: label || title, title, target, lines: new Set(), from: place, points: [] });
        }
        const band = found.at(-1);
        band.points.push(point);
        for (const line of values.keys()) band.lines.add(line);
        band.to = place;
      }
      return found;
    }

    // --- reading ----------------------------------------------------------------------

    nearest(place) {
      if (place === null) return null;
      const far = (point) => Math.abs(point[0] - place);
      return this.points.reduce((best, point) => (far(point) < far(best) ? point : best), this.points[0]);
    }

    // The values at the cursor, for the eye and for a screen reader.
    tell(at, x, width) {
      const point = at || this.points.at(-1), band = this.episodes.findLast((one) => one.from <= point[0]);
      const values = [...point[2]].filter(([, value]) => value !== null).sort((a, b) => b[1] - a[1]);
      const said = values.map(([line, value]) => `${this.lines[line]} ${short(value)}`);
      const head = this.where(point);
      const last = this.points.length - 1;
      Object.entries({ min: 0, max: last, now: this.points.indexOf(point), text: `${head}: ${said.join(", ") || "no scores"}` })
        .forEach(([key, value]) => this.plot.setAttribute(`aria-value${key}`, value));
      this.tip.hidden = !at;
      if (!at) return;
      this.tip.classList.toggle("left", x > width / 2);
      this.tip.replaceChildren(html("b", { textContent: head }), html("ul", {}, ...values.map(([line, value]) =>
        html("li", { className: line === band.target ? "target" : "" }, html("span", { className: `swatch line-${this.colours[line]}` }),
          html("span", { className: "label", textContent: this.lines[line] }), html("span", { className: "num", textContent: short(value) })))));
    }

    where(point) {
      return `${this.episodes.findLast((band) => band.from <= point[0]).title}, step ${point[1].toLocaleString("en")}`;
    }

    read(place) {
      this.cursor = place;
      this.later();
    }

    x(event) {
      return event.clientX - this.plot.getBoundingClientRect().left;
    }

    // A browser says so too when the page moves under a pointer that rests.
    moved({ clientX, clientY }) {
      const rests = clientX === this.at?.[0] && clientY === this.at?.[1];
      this.at = [clientX, clientY];
      if (this.place && !rests) this.read(this.place(this.x({ clientX })));
    }

    // To its end, also where the pointer leaves the chart.
    taken(event) {
      if (event.button !== 0) return;
      this.drag = this.x(event);
      this.plot.setPointerCapture(event.pointerId);
    }

    dropped(event) {
      const [a, b] = [this.drag ?? this.x(event), this.x(event)].sort((one, other) => one - other);
      this.drag = null;
      if (b - a > 8) this.show([Math.floor(this.place(a)), Math.ceil(this.place(b))]);
    }

    key(event) {
      if (event.ctrlKey || event.altKey || event.metaKey) return; // the browser's own
      const places = this.points.map((point) => point[0]), now = this.nearest(this.cursor) || this.points.at(-1);
      const [from, to] = this.window();
      const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      const zoom = { "+": 0.5, "-": 2 }[event.key];
      if (move) {
        const at = places[Math.max(0, Math.min(places.length - 1, places.indexOf(now[0]) + move))];
        if (at < from || at > to) this.show([at - (to - from) / 2, at + (to - from) / 2]); // what is read is seen
        this.read(at);
      } else if (zoom) {
        const middle = this.cursor ?? (from + to) / 2, half = ((to - from) * zoom) / 2;
        this.show([Math.max(places[0], middle - half), Math.min(places.at(-1), middle + half)]);
      } else if (event.key === "Escape") {
        this.read(null);
        this.show(null);
      } else return;
      event.preventDefault();
    }
  }

  window.drawChart = (box, message) => {
    if (!charts.has(box)) charts.set(box, new Chart(box));
    charts.get(box).take(message);
  };
})();
