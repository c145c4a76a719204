"use strict";
// A page that shows a secret once: sets the URL of another page, so that a reload does not make a second secret.
history.replaceState(null, "", document.querySelector("[data-address]").dataset.address);
