{{- define "sluice.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sluice.secret" -}}
{{ .Values.existingSecret | default (include "sluice.name" .) }}
{{- end }}

{{- define "sluice.services" -}}
{{- if eq .Values.mode "all-in-one" }}all-in-one
{{- else if eq .Values.mode "split" }}router delivery reaper
{{- else }}{{ fail (printf "mode is all-in-one or split, not %s" .Values.mode) }}
{{- end }}
{{- end }}
