// Rows of a form: added, removed and put in order by buttons, with mouse or keyboard. The server reads their places.
"use strict";

for (const rows of document.querySelectorAll("[data-rows]")) {
  const list = rows.querySelector("[data-rows-list]");
  const template = rows.querySelector("[data-rows-template]");
  const total = rows.querySelector("[name$='-TOTAL_FORMS']");
  const status = rows.querySelector("[data-rows-status]");

  const number = () => {
    const all = [...list.children];
    all.forEach((row, index) => {
      row.querySelector("[name$='-ORDER']").value = index + 1;
      row.querySelector("[data-row-up]").disabled = index === 0;
      row.querySelector("[data-row-down]").disabled = index === all.length - 1;
    });
    rows.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const dress = (row) => {
    row.querySelector("[data-row-tools]").hidden = false;
    row.querySelector("[data-row-marks]").hidden = true;
  };

  const move = (row, button, toward) => {
    if (toward < 0) row.previousElementSibling.before(row);
    else row.nextElementSibling.after(row);
    number();
    // at either end the button that was pressed goes out of use; the focus stays in the row
    (button.disabled ? row.querySelector("[data-row-tools] button:not(:disabled)") : button).focus();
    const place = [...list.children].indexOf(row) + 1;
    status.textContent = `Moved to place ${place} of ${list.children.length}.`;
  };

  const add = () => {
    const holder = document.createElement("div");
    holder.innerHTML = template.innerHTML.replaceAll("__prefix__", total.value);
    total.value = Number(total.value) + 1;
    const row = holder.firstElementChild;
    list.append(row);
    dress(row);
    number();
    row.querySelector("input:not([type=hidden]), select").focus();
  };

  const remove = (row) => {
    const next = row.nextElementSibling || row.previousElementSibling;
    row.remove();
    number();
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
  [...list.children].forEach(dress);
  number();
}
