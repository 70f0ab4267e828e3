"""The CustomResourceDefinition, made from the models of the spec and the status."""
