"use strict";
// Submits a form without leaving its page, so that the inputs stay and no response contains them.
{
  const form = document.querySelector("form[data-preview]");
  const preview = document.getElementById(form.dataset.preview);
  let latest = 0;

  const showError = (message) => {
    const line = document.createElement("p");
    line.setAttribute("role", "alert");
    line.textContent = message;
    preview.replaceChildren(line);
  };

  form.addEventListener("input", () => {
    latest += 1; // the preview, or a pending one, belongs to earlier input
    preview.replaceChildren();
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = new FormData(form, event.submitter);
    body.append("fragment", "1");
    const submitted = (latest += 1);
    event.submitter.disabled = true;
    try {
      const response = await fetch(location.href, { method: "POST", body, redirect: "error" });
      const next = response.headers.get("X-Runqy-Location");
      if (next) {
        location.assign(next);
      } else if (!response.ok) {
        showError(`The server responded with status ${response.status}. Reload the page and try again.`);
      } else if (submitted === latest) {
        preview.innerHTML = await response.text();
      }
    } catch {
      showError("The server did not respond, or you are no longer logged in. Reload the page and try again.");
    }
    event.submitter.disabled = false;
  });
}
