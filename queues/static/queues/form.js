// The form of a queue: asks the server for the example of a task and for a look at the repository.
"use strict";

const form = document.getElementById("queue_form");

const post = async (url, body) => {
  const token = form.querySelector("[name=csrfmiddlewaretoken]").value;
  const answer = await fetch(url, { method: "POST", body, headers: { "X-CSRFToken": token } });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
};

const entered = () => {
  const body = new FormData(form);
  body.set("name", form.querySelector("[name=name]").value); // a name that cannot be changed is not sent by itself
  return body;
};

const followExample = (example) => {
  const [body, curl] = [document.getElementById("example-body"), document.getElementById("example-curl")];
  let due;
  let latest = 0;

  const refresh = async () => {
    const asked = ++latest;
    const found = await post(example.dataset.example, entered()).catch(() => null);
    if (!found || asked !== latest) return; // the last one stays until the server answers again
    body.textContent = found.body;
    curl.textContent = found.curl;
  };

  const later = () => {
    clearTimeout(due);
    due = setTimeout(refresh, 250);
  };
  form.addEventListener("input", later);
  form.addEventListener("change", later);
};

const offerCopies = (example) => {
  const status = example.querySelector("[data-copy-status]");
  for (const button of example.querySelectorAll("[data-copy]")) {
    const source = document.getElementById(button.dataset.copy);
    button.hidden = false;
    button.addEventListener("click", async () => {
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      // without https there is no clipboard to write to, but the old way may do
      const isCopied = await navigator.clipboard?.writeText(source.textContent).then(() => true, () => false);
      const words = isCopied || document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
      button.textContent = words;
      status.textContent = words;
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }
};

const offerCheck = (check) => {
  const button = check.querySelector("[data-check-run]");
  const outcome = check.querySelector("[data-check-outcome]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    const all = entered();
    const body = new FormData();
    for (const name of ["git_url", "branch", "git_token"]) body.set(name, all.get(name) ?? "");
    body.set("queue", all.get("name") ?? "");
    button.disabled = true;
    outcome.className = "rq-outcome";
    outcome.textContent = "Looking…";
    try {
      const found = await post(check.dataset.check, body);
      outcome.classList.add(found.is_ready ? "rq-good" : "rq-bad");
      outcome.textContent = found.sentence;
    } catch {
      outcome.classList.add("rq-bad");
      outcome.textContent = "The server did not answer. Try again; if that does not help, log in again.";
    } finally {
      button.disabled = false;
    }
  });
};

if (form) {
  document.querySelectorAll("[data-example]").forEach((example) => {
    followExample(example);
    offerCopies(example);
  });
  document.querySelectorAll("[data-check]").forEach(offerCheck);
}
