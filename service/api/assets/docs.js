// Paths are relative to /docs, so that a proxy may put the service under a prefix.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
});

// Swagger UI's markup lacks this for screen readers (axe-core: region, select-name, heading-order, nested-interactive).
const reference = document.getElementById("reference");
const all = (selector) => reference.querySelectorAll(selector);

function mend() {
  for (const part of all(".information-container, .scheme-container")) {
    part.setAttribute("role", "region");
    part.setAttribute("aria-label", part.matches(".scheme-container") ? "Server and authorization" : "About");
  }
  for (const select of all("#servers")) select.setAttribute("aria-label", "Server");
  for (const heading of all("h3.opblock-tag")) heading.setAttribute("aria-level", "2");
  for (const link of all("button a[href]")) link.removeAttribute("href"); // the button does the same
}

new MutationObserver(mend).observe(reference, { childList: true, subtree: true });
