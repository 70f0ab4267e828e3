"""The control plane: reconciles ESFineTune resources into worker pods. It imports no torch."""
