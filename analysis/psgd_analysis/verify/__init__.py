"""`psgd verify`: every preconditioner against its exact target, on built-in Hessians and on one's own."""
