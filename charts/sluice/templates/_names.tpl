{{- define "sluice.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sluice.secret" -}}
{{ .Values.existingSecret | default (include "sluice.name" .) }}
{{- end }}

{{- define "sluice.services" -}}
{{- if eq .Values.mode "all-in-one" }}all-in-one
{{- else }}router delivery reaper
{{- end }}
{{- end }}

{{- /* Where definitions and publishes go, and where deliveries come from. */}}
{{- define "sluice.publishing" -}}
{{ include "sluice.name" . }}-{{ eq .Values.mode "split" | ternary "router" "all-in-one" }}
{{- end }}

{{- define "sluice.delivering" -}}
{{ include "sluice.name" . }}-{{ eq .Values.mode "split" | ternary "delivery" "all-in-one" }}
{{- end }}

{{- /* What objects of one release have in common; by these alone nothing is selected. */}}
{{- define "sluice.labels" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluice.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- /* A value as a text: whole numbers come as floats, and large ones would be 1.6777216e+07. */}}
{{- define "sluice.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "sluice.tlsOnly" -}}
{{- if eq (toString .Values.env.SLUICE_TLS_ONLY) "true" }}yes{{ end }}
{{- end }}

{{- /* An URL of a service of this release, given its name. */}}
{{- define "sluice.url" -}}
{{- if include "sluice.tlsOnly" .context -}}
https://{{ .name }}:{{ .context.Values.tls.port }}
{{- else -}}
http://{{ .name }}:{{ .context.Values.service.port }}
{{- end }}
{{- end }}

{{- define "sluice.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "sluice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- /* The environment of a short task that speaks to the broker as its administrator. */}}
{{- define "sluice.taskEnv" -}}
- { name: SLUICE_URL, value: {{ include "sluice.url" (dict "context" . "name" (include "sluice.publishing" .)) | quote }} }
- { name: SLUICE_USER, value: {{ .Values.env.SLUICE_ADMIN_USER | default "admin" | quote }} }
- name: SLUICE_PASSWORD
  valueFrom:
    secretKeyRef: { name: {{ include "sluice.secret" . }}, key: {{ .Values.secretEnv.SLUICE_ADMIN_PASSWORD }} }
{{- if include "sluice.tlsOnly" . }}
- { name: NODE_EXTRA_CA_CERTS, value: /tls/ca.crt }
{{- end }}
{{- end }}

{{- define "sluice.taskResources" -}}
requests: { cpu: 50m, memory: 128Mi }
limits: { cpu: "1", memory: 256Mi }
{{- end }}
