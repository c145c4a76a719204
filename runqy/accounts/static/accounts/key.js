"use strict";
// The page of a new key: copies it, and gives the page the address of the key, so that reloading makes no second one.
{
  const created = document.getElementById("created-key");
  history.replaceState(null, "", created.dataset.address);

  const copied = async (element) => {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    }
    const range = document.createRange(); // without HTTPS browsers have no clipboard for us
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand("copy");
  };

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const done = await copied(document.getElementById(button.dataset.copy)).catch(() => false);
      button.textContent = done ? "Copied" : "Select and copy it";
    });
  }
}
