// Select all rows of a list at once, show the number of selected rows, and enable the actions on them. Rows and lists come
// and go while the page is open, so the document listens for all of them.
const findBoxes = (form) => [...form.querySelectorAll("input[name=id]")];
const updateSelection = (form) => {
  const all = form.querySelector("[data-select-all]");
  const label = form.querySelector("[data-selection-label]");
  const boxes = findBoxes(form);
  const count = boxes.filter((box) => box.checked).length;
  label.textContent = count ? `${count} selected` : label.dataset.selectionLabel;
  all.hidden = false;
  all.checked = count > 0 && count === boxes.length;
  all.indeterminate = count > 0 && count < boxes.length;
  for (const button of form.querySelectorAll("button[data-for-selected]")) button.disabled = count === 0;
};
const updateSelections = () => document.querySelectorAll("[data-selection]").forEach(updateSelection);
document.addEventListener("change", ({ target }) => {
  const form = target.closest("[data-selection]");
  if (!form) return;
  if (target.matches("[data-select-all]")) for (const box of findBoxes(form)) box.checked = target.checked;
  updateSelection(form);
});
document.addEventListener("live:updated", updateSelections);
window.addEventListener("pageshow", updateSelections);
updateSelections();

for (const form of document.querySelectorAll("[data-submit-on-change]")) {
  form.addEventListener("change", () => form.requestSubmit());
}

// On a phone a form shows the conditions that are used most; `data-unfold` shows the others.
for (const button of document.querySelectorAll("[data-unfold]")) {
  const form = button.closest("form");
  form.classList.add("is-folded");
  button.hidden = false;
  button.addEventListener("click", () => {
    form.classList.remove("is-folded");
    button.remove();
  });
}

// Polled parts of a page: none is polled in a hidden tab, the login page loads as a page, and a text keeps its position,
// or stays at its end if it was there.
const isAtEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 8;
const scrollToEnd = (box) => { box.scrollTop = box.scrollHeight; };
const boxes = () => [...document.querySelectorAll("[data-follow]")];
let positions = new Map();

document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.detail.elt.matches("[hx-trigger^=every]")) event.preventDefault();
});
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const requested = new URL(event.detail.pathInfo.requestPath, location.href);
  if (new URL(event.detail.xhr.responseURL).pathname !== requested.pathname) {
    event.detail.shouldSwap = false;
    location.reload();
  }
  positions = new Map(boxes().filter((box) => !isAtEnd(box)).map((box) => [box.id, box.scrollTop]));
});
document.body.addEventListener("htmx:afterSwap", () => {
  for (const box of boxes()) {
    if (positions.has(box.id)) box.scrollTop = positions.get(box.id);
    else scrollToEnd(box);
  }
});
boxes().forEach(scrollToEnd);

// Switch between two presentations of a text.
for (const button of document.querySelectorAll("[data-toggle]")) {
  const parts = button.dataset.toggle.split(" ").map((id) => document.getElementById(id));
  for (const part of parts) part.hidden = part.hasAttribute("data-secondary");
  button.hidden = false;
  button.addEventListener("click", () => {
    for (const part of parts) part.hidden = !part.hidden;
  });
}
