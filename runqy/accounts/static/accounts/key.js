"use strict";
// The page of a new key: sets the URL of the key's page, so that a reload does not create a second key.
history.replaceState(null, "", document.getElementById("created-key").dataset.address);
