// Gives a run the command of its page's form: asks once more, sends it to the API, and
// says what came back. What becomes of it is shown by the page itself.
"use strict";
(() => {
  const said = document.getElementById("order-said");
  const dialog = document.getElementById("confirm");
  if (!dialog || !dialog.showModal) return;
  document.documentElement.classList.add("can-order");
  let asked = null;

  const chosen = (form, name) => form.querySelector(`[name="${name}"]:checked`);
  const words = (input) => input.parentElement.textContent.trim();

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.to) return;
    event.preventDefault();
    const button = event.submitter || form.querySelector("[data-command]");
    const stops = button.dataset.command === "stop";
    const source = chosen(form, "source"), when = chosen(form, "when");
    const body = { command: button.dataset.command, reason: form.elements.reason.value };
    if (source && source.value) body.source = source.value;
    if (stops && when) body.when = when.value;
    asked = { body, form, to: form.dataset.to, login: form.dataset.login };
    const whom = source ? words(source) : "the run";
    show("what", stops ? `Stop ${whom} ${words(when)}?` : `Give ${whom} the command ${body.command}?`);
    show("reason", body.reason ? `Reason: ${body.reason}` : "No reason is given.");
    show("yes", stops ? "Stop" : body.command).className = stops ? "grave" : "";
    say("");
    dialog.returnValue = "no"; // what Escape means
    dialog.showModal();
  });

  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "yes" && asked) give(asked);
    asked = null;
  });

  async function give({ body, form, to, login }) {
    say("Sending…");
    try {
      const answer = await fetch(to, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      if (answer.status === 401) return say("Commands need the token:", login);
      if (answer.status !== 202) {
        const { error } = await answer.json().catch(() => ({}));
        return say(`Not given: ${error || answer.status}`);
      }
      say("Given, and on record.");
      form.elements.reason.value = "";
    } catch (error) {
      say("The exporter did not answer: whether it was given is in the list, once it is back.");
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
