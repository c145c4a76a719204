"use strict";
// Sends a form without leaving its page: what was entered stays where it is, and answers never have to carry it.
{
  const form = document.querySelector("form[data-preview]");
  const preview = document.getElementById(form.dataset.preview);
  let latest = 0;

  const say = (sentence) => {
    const line = document.createElement("p");
    line.setAttribute("role", "alert");
    line.textContent = sentence;
    preview.replaceChildren(line);
  };

  form.addEventListener("input", () => {
    latest += 1; // what is shown, or on its way, is of other input
    preview.replaceChildren();
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = new FormData(form, event.submitter);
    body.append("fragment", "1");
    const mine = (latest += 1);
    event.submitter.disabled = true;
    try {
      const answer = await fetch(location.href, { method: "POST", body, redirect: "error" });
      const next = answer.headers.get("X-Runqy-Location");
      if (next) {
        location.assign(next);
      } else if (!answer.ok) {
        say(`The server answered ${answer.status}. Reload the page and try again.`);
      } else if (mine === latest) {
        preview.innerHTML = await answer.text();
      }
    } catch {
      say("The server did not answer, or you are no longer logged in. Reload the page and try again.");
    }
    event.submitter.disabled = false;
  });
}
