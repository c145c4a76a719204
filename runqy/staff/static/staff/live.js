// Ticks all rows of a list at once, says how many are ticked, and lets the buttons for them be pressed only then.
for (const form of document.querySelectorAll("[data-picks]")) {
  const all = form.querySelector("[data-pick-all]");
  const ticks = [...form.querySelectorAll("input[name=id]")];
  const said = form.querySelector("[data-picked]");
  const buttons = form.querySelectorAll("button[data-for-picked]");

  const update = () => {
    const count = ticks.filter((tick) => tick.checked).length;
    said.textContent = count ? `${count} selected` : said.dataset.picked;
    all.checked = count > 0 && count === ticks.length;
    all.indeterminate = count > 0 && count < ticks.length;
    for (const button of buttons) button.disabled = count === 0;
  };

  all.addEventListener("change", () => {
    for (const tick of ticks) tick.checked = all.checked;
    update();
  });
  for (const tick of ticks) tick.addEventListener("change", update);
  window.addEventListener("pageshow", update);
  all.hidden = false;
  update();
}

for (const form of document.querySelectorAll("[data-submit-on-change]")) {
  form.addEventListener("change", () => form.requestSubmit());
}
