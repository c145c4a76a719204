// Tells the login form the time zone of the browser, and offers it on the page of the user's settings.
(() => {
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  for (const field of document.querySelectorAll("input[data-browser-zone]")) field.value = timeZone;
  for (const button of document.querySelectorAll("button[data-browser-zone]")) {
    const field = document.getElementById(button.dataset.browserZone);
    button.querySelector("span").textContent = timeZone;
    button.hidden = field.value === timeZone;
    button.addEventListener("click", () => {
      field.value = timeZone;
      button.hidden = true;
    });
  }
})();
