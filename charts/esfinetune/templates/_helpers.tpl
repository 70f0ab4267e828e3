{{/* Labels that tell the pods of a component. They never change: selectors cannot, and pods need no restart for them. Call with (list $ "operator"). */}}
{{- define "esfinetune.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* All labels of an object. Call with (list $ "operator"). */}}
{{- define "esfinetune.labels" -}}
{{- $root := index . 0 -}}
{{ include "esfinetune.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end }}

{{/* An image's name. Call with (list $ $image). */}}
{{- define "esfinetune.image" -}}
{{- $image := index . 1 -}}
{{ $image.repository }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end }}

{{- define "esfinetune.operator" -}}
{{ .Release.Name }}-operator
{{- end }}

{{- define "esfinetune.redis" -}}
{{ .Release.Name }}-redis
{{- end }}

{{- define "esfinetune.redisSecret" -}}
{{ .Values.redis.passwordSecretRef.name | default (include "esfinetune.redis" .) }}
{{- end }}

{{- define "esfinetune.credentialsSecret" -}}
{{ .Values.credentialsKeySecretRef.name | default (printf "%s-credentials" .Release.Name) }}
{{- end }}

{{/* Where a pod may run, and what it pulls its image with. Call with (list $ $component). */}}
{{- define "esfinetune.scheduling" -}}
{{- $component := index . 1 -}}
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
