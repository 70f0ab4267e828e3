{{/*
What the operator may do, in every namespace that it looks after. Server-side apply of an object that may not exist
takes `create` and `patch`. It can start no command in a pod, read no log, and neither read nor change a Secret: it
only creates those with the credentials of runs.
*/}}
{{- define "esfinetune.rules" -}}
- apiGroups: [esfinetune.dev]
  resources: [esfinetunes]
  verbs: [get, list, watch, patch, delete]  # delete: ttlSecondsAfterFinished
- apiGroups: [esfinetune.dev]
  resources: [esfinetunes/status]
  verbs: [patch]
- apiGroups: [esfinetune.dev]
  resources: [esfinetunes/finalizers]
  verbs: [update]  # to name a resource as an owner whose deletion waits
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, create, patch]
- apiGroups: [keda.sh]
  resources: [scaledobjects, triggerauthentications]
  verbs: [get, create, patch]
{{- end }}
