// Paths are relative to /docs, so that a proxy may put the service under a prefix.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
});

// Swagger UI's markup lacks names, headings' levels, landmarks and tables' headers for screen readers.
const NAMES = {
  ".information-container": () => "About",
  ".scheme-container": () => "Server and authorization",
  "#servers": () => "Server",
  ".close-modal": () => "Close",
  ".body-param__text": () => "Request body",
  "[data-param-name] select": (select) => select.closest("[data-param-name]").dataset.paramName,
  ".response .examples-select-element": (select) => `Example of ${select.closest("[data-code]").dataset.code}`,
  ".json-schema-2020-12-accordion:has(> :empty:first-child)": () => "Schema",
};
const LEVELS = { h3: 2, h4: 3, h5: 4, h6: 4 };
const ROLES = {
  ".information-container, .scheme-container": "region",
  ".responses-table": null, // it is a table
  "td.col_header": "columnheader",
};
// Names that differ from the shown text, and links in buttons that do the same.
const SURPLUS = { ".auth-btn-wrapper button": "aria-label", "button a": "href" };
const reference = document.getElementById("reference");

function each(changes, change) {
  for (const [selector, value] of Object.entries(changes)) {
    for (const part of reference.querySelectorAll(selector)) change(part, value);
  }
}

function mend() {
  each(NAMES, (part, name) => (part.ariaLabel = name(part)));
  each(LEVELS, (heading, level) => (heading.ariaLevel = level));
  each(ROLES, (part, role) => (part.role = role));
  each(SURPLUS, (part, attribute) => part.removeAttribute(attribute));
  // A keyboard scrolls only what it can reach.
  for (const code of reference.querySelectorAll(".microlight")) {
    code.tabIndex = code.scrollHeight > code.clientHeight ? 0 : -1;
  }
}

new MutationObserver(mend).observe(reference, { childList: true, subtree: true });
