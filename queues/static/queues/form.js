// The form of a queue: updates the example task, and checks the repository.
"use strict";

const form = document.getElementById("queue_form");

const post = async (url, body) => {
  const token = form.querySelector("[name=csrfmiddlewaretoken]").value;
  const response = await fetch(url, { method: "POST", body, headers: { "X-CSRFToken": token } });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
};

const formData = () => {
  const body = new FormData(form);
  body.set("name", form.querySelector("[name=name]").value); // a disabled field is not part of the form data
  return body;
};

const updateExample = (example) => {
  const [body, curl] = [document.getElementById("example-body"), document.getElementById("example-curl")];
  let timer;
  let latest = 0;

  const refresh = async () => {
    const requested = ++latest;
    const found = await post(example.dataset.example, formData()).catch(() => null);
    if (!found || requested !== latest) return; // keep the last example until the server responds again
    body.textContent = found.body;
    curl.textContent = found.curl;
    for (const block of example.querySelectorAll(".rq-code")) block.hidden = !found.body;
    example.querySelector("[data-example-empty]").hidden = Boolean(found.body);
  };

  const schedule = () => {
    clearTimeout(timer);
    timer = setTimeout(refresh, 250);
  };
  form.addEventListener("input", schedule);
  form.addEventListener("change", schedule);
};

const enableCheckButton = (check) => {
  const button = check.querySelector("[data-check-run]");
  const result = check.querySelector("[data-check-result]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    const fields = formData();
    const body = new FormData();
    for (const name of ["git_url", "branch", "git_token"]) body.set(name, fields.get(name) ?? "");
    body.set("queue", fields.get("name") ?? "");
    button.disabled = true;
    result.className = "rq-check-result";
    result.textContent = "Checking…";
    try {
      const found = await post(check.dataset.check, body);
      result.classList.add(found.is_ready ? "rq-success-text" : "rq-error-text");
      result.textContent = found.message;
    } catch {
      result.classList.add("rq-error-text");
      result.textContent = "The server did not respond. Try again, or log in again.";
    } finally {
      button.disabled = false;
    }
  });
};

if (form) {
  document.querySelectorAll("[data-example]").forEach(updateExample);
  document.querySelectorAll("[data-check]").forEach(enableCheckButton);
}
