// Select all rows of a list at once, show the number of selected rows, and enable the actions on them. Rows may be
// replaced while the page is open, and lists may be added.
const watchSelection = (form) => {
  form.dataset.selection = "watched";
  const all = form.querySelector("[data-select-all]");
  const findBoxes = () => [...form.querySelectorAll("input[name=id]")];
  const label = form.querySelector("[data-selection-label]");
  const buttons = form.querySelectorAll("button[data-for-selected]");

  const update = () => {
    const boxes = findBoxes();
    const count = boxes.filter((box) => box.checked).length;
    label.textContent = count ? `${count} selected` : label.dataset.selectionLabel;
    all.checked = count > 0 && count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
    for (const button of buttons) button.disabled = count === 0;
  };

  form.addEventListener("change", (event) => {
    if (event.target === all) for (const box of findBoxes()) box.checked = all.checked;
    update();
  });
  form.addEventListener("live:updated", update);
  window.addEventListener("pageshow", update);
  all.hidden = false;
  update();
};
const watchSelections = () => document.querySelectorAll("[data-selection='']").forEach(watchSelection);
document.addEventListener("live:updated", watchSelections);
watchSelections();

for (const form of document.querySelectorAll("[data-submit-on-change]")) {
  form.addEventListener("change", () => form.requestSubmit());
}

// Polled parts of a page: none is polled in a hidden tab, the login page loads as a page, and a text keeps its position,
// or stays at its end if it was there.
const isAtEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 8;
const scrollToEnd = (box) => { box.scrollTop = box.scrollHeight; };
let position = null;

document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.detail.elt.matches("[hx-trigger^=every]")) event.preventDefault();
});
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const requested = new URL(event.detail.pathInfo.requestPath, location.href);
  if (new URL(event.detail.xhr.responseURL).pathname !== requested.pathname) {
    event.detail.shouldSwap = false;
    location.reload();
  }
  const box = event.detail.target.querySelector("[data-follow]");
  position = box && !isAtEnd(box) ? box.scrollTop : null;
});
document.body.addEventListener("htmx:afterSwap", () => {
  const box = document.querySelector("[data-follow]");
  if (box && position === null) scrollToEnd(box);
  else if (box) box.scrollTop = position;
});
document.querySelectorAll("[data-follow]").forEach(scrollToEnd);

// Switch between two presentations of a text.
for (const button of document.querySelectorAll("[data-toggle]")) {
  const parts = button.dataset.toggle.split(" ").map((id) => document.getElementById(id));
  for (const part of parts) part.hidden = part.hasAttribute("data-secondary");
  button.hidden = false;
  button.addEventListener("click", () => {
    for (const part of parts) part.hidden = !part.hidden;
  });
}
