"""How a source and the user's options become a `plan.Plan`: decided layer by layer, nothing written."""
