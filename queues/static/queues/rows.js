// Rows of a form: buttons add, remove and reorder them. The server reads their positions.
"use strict";

for (const rows of document.querySelectorAll("[data-rows]")) {
  const list = rows.querySelector("[data-rows-list]");
  const template = rows.querySelector("[data-rows-template]");
  const total = rows.querySelector("[name$='-TOTAL_FORMS']");
  const status = rows.querySelector("[data-rows-status]");

  const renumber = () => {
    const all = [...list.children];
    all.forEach((row, index) => {
      row.querySelector("[name$='-ORDER']").value = index + 1;
      row.querySelector("[data-row-up]").disabled = index === 0;
      row.querySelector("[data-row-down]").disabled = index === all.length - 1;
    });
    rows.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const showButtons = (row) => {
    row.querySelector("[data-row-tools]").hidden = false;
    row.querySelector("[data-row-fallback]").hidden = true;
  };

  const move = (row, button, toward) => {
    if (toward < 0) row.previousElementSibling.before(row);
    else row.nextElementSibling.after(row);
    renumber();
    // the pressed button is disabled at either end; keep the focus in the row
    (button.disabled ? row.querySelector("[data-row-tools] button:not(:disabled)") : button).focus();
    const position = [...list.children].indexOf(row) + 1;
    status.textContent = `Moved to position ${position} of ${list.children.length}.`;
  };

  const add = () => {
    const container = document.createElement("div");
    container.innerHTML = template.innerHTML.replaceAll("__prefix__", total.value);
    total.value = Number(total.value) + 1;
    const row = container.firstElementChild;
    list.append(row);
    showButtons(row);
    renumber();
    row.querySelector("input:not([type=hidden]), select").focus();
  };

  const remove = (row) => {
    const next = row.nextElementSibling || row.previousElementSibling;
    row.remove();
    renumber();
    status.textContent = `Removed the ${rows.dataset.noun}.`;
    (next ? next.querySelector("[data-row-remove]") : rows.querySelector("[data-rows-add]")).focus();
  };

  rows.querySelector("[data-rows-add]").hidden = false;
  rows.querySelector("[data-rows-add]").addEventListener("click", add);
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const row = event.target.closest("[data-row]");
    if (!button || !row) return;
    if (button.matches("[data-row-up]")) move(row, button, -1);
    else if (button.matches("[data-row-down]")) move(row, button, 1);
    else if (button.matches("[data-row-remove]")) remove(row);
  });
  [...list.children].forEach(showButtons);
  renumber();
}
