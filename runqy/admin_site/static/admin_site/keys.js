// Keys of all pages: / goes to the search, ? lists the keys. They do nothing where text is typed.
"use strict";
addEventListener("keydown", (event) => {
  const typesText = event.target.closest?.("textarea, select, [contenteditable], input:not([type=checkbox], [type=radio])");
  if (typesText || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "?") {
    document.getElementById("runqy-keys")?.showModal();
  } else if (event.key === "/") {
    const searches = document.querySelectorAll(".runqy-search input, [role=search] input[type=search], #searchbar");
    const search = [...searches].find((input) => input.checkVisibility());
    if (search) {
      search.focus();
      search.select();
    } else {
      document.querySelector(".runqy-search-link")?.click();
    }
  } else {
    return;
  }
  event.preventDefault();
});
