"use strict";

// With a key, the examples of the schema name a queue that the key may use.
async function readSchema(ui, key) {
  const response = await fetch("{{ schema_url|escapejs }}", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  if (response.ok) ui.specActions.updateSpec(await response.text());
}

function authorizePlugin() {
  return {
    statePlugins: {
      auth: {
        wrapActions: {
          authorize: (authorize, ui) => (schemes) => {
            readSchema(ui, schemes.ApiKey?.value);
            return authorize(schemes);
          },
          logout: (logout, ui) => (schemes) => {
            readSchema(ui, "");
            return logout(schemes);
          },
        },
      },
    },
  };
}

SwaggerUIBundle({
  url: "{{ schema_url|escapejs }}",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [authorizePlugin],
  ...{{ settings|safe }},
});
