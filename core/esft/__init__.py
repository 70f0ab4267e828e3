"""What the control plane and the data plane of esfinetune share.

Neither torch nor a Kubernetes client is imported here, so that the command line starts at once and the
operator's image stays small.
"""

__version__ = "0.2.0"
