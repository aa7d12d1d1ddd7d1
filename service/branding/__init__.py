"""The operator's own name on all that users see: product, support, colours and logo."""
