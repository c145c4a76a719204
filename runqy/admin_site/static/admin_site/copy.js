"use strict";
// Buttons that copy the text of the element with the id in `data-copy`. They are hidden in pages without scripts.
{
  const copyText = async (element) => {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    }
    const range = document.createRange(); // without HTTPS there is no clipboard API
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand("copy");
  };

  const status = document.querySelector("[data-copy-status]"); // read by screen readers
  for (const button of document.querySelectorAll("[data-copy]")) {
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      const wasHidden = source.hidden;
      source.hidden = false;
      const done = await copyText(source).catch(() => false);
      source.hidden = wasHidden;
      button.textContent = done ? "Copied" : "Select and copy the text";
      if (status) status.textContent = button.textContent;
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  }
}
