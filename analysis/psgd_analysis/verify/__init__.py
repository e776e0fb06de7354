"""`psgd verify`: every preconditioner against its exact target, on built-in Hessians and your own."""
