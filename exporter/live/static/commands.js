// Gives a run the command of its page's form, or deletes it where it has ended: asks once
// more, tells the API, and says what came back. What becomes of a command is shown by the
// page itself.
"use strict";
(() => {
  const dialog = document.getElementById("confirm");
  if (!dialog || !dialog.showModal) return;
  document.documentElement.classList.add("can-order");
  let asked = null, said = null; // what was asked, and where is said what comes of it

  const chosen = (form, name) => form.querySelector(`[name="${name}"]:checked`);
  const words = (input) => input.parentElement.textContent.trim();

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.to) return;
    event.preventDefault();
    said = form.closest(".orders").querySelector("[role=status]");
    asked = "deletes" in form.dataset ? removal(form) : order(form, event.submitter);
    show("what", asked.what);
    show("reason", asked.why);
    show("yes", asked.yes).className = asked.grave ? "grave" : "";
    say("");
    dialog.returnValue = "no"; // what Escape means
    dialog.showModal();
  });

  function order(form, submitter) {
    const button = submitter || form.querySelector("[data-command]");
    const command = button.dataset.command, stops = command === "stop";
    const source = chosen(form, "source"), when = chosen(form, "when");
    const body = { command, reason: form.elements.reason.value };
    if (source && source.value) body.source = source.value;
    if (stops && when) body.when = when.value;
    const whom = source ? words(source) : "the run";
    return {
      form, body, grave: stops, yes: stops ? "Stop" : command,
      what: stops ? `Stop ${whom} ${words(when)}?` : `Give ${whom} the command ${command}?`,
      why: body.reason ? `Reason: ${body.reason}` : "No reason is given.",
    };
  }

  const removal = (form) => ({
    form, grave: true, yes: "Delete", what: `Delete ${form.dataset.deletes}?`,
    why: "The exporter forgets its numbers, episodes and log, for good. What Prometheus and the trace store have of it stays.",
  });

  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "yes" && asked) (asked.body ? give : remove)(asked);
    asked = null;
  });

  async function give({ body, form }) {
    const headers = { "Content-Type": "application/json" };
    const done = await sent(form, { method: "POST", headers, body: JSON.stringify(body) }, {
      under: "Sending…", token: "Commands need the token:", not: "Not given:",
      unknown: "whether it was given is in the list, once it is back",
    });
    if (!done) return;
    say("Given, and on record.");
    form.elements.reason.value = "";
  }

  async function remove({ form }) {
    const done = await sent(form, { method: "DELETE" }, {
      under: "Deleting…", token: "To delete a run needs the token:", not: "Not deleted:",
      unknown: "whether the run is deleted shows once it is back",
    });
    if (done) location.assign("./../");
  }

  // Whether it was done; else it was said why not.
  async function sent(form, request, texts) {
    say(texts.under);
    try {
      const answer = await fetch(form.dataset.to, request);
      if (answer.ok) return true;
      if (answer.status === 401) return say(texts.token, form.dataset.login);
      const { error } = await answer.json().catch(() => ({}));
      say(`${texts.not} ${error || answer.status}`);
    } catch (error) {
      say(`The exporter did not answer: ${texts.unknown}.`);
    }
  }

  function show(place, text) {
    const element = document.getElementById(`confirm-${place}`);
    element.textContent = text;
    return element;
  }

  function say(text, login) {
    said.textContent = text;
    if (!login) return;
    const link = document.createElement("a");
    link.href = login;
    link.textContent = "enter it";
    said.append(" ", link);
  }
})();
