{{- /* Settings of a process: values, what follows from other values, secrets by reference. Without a Redis and a
password no pod starts: each would generate one of its own. */}}
{{- define "sluice.env" -}}
{{- $files := dict }}
{{- if .Values.tls.existingSecret }}
{{- $_ := set $files "SLUICE_TLS_CERT" "/tls/tls.crt" }}
{{- $_ := set $files "SLUICE_TLS_KEY" "/tls/tls.key" }}
{{- if .Values.tls.clientCa }}{{ $_ := set $files "SLUICE_TLS_CLIENT_CA" "/tls/ca.crt" }}{{ end }}
{{- end }}
{{- if .Values.redis.tls.existingSecret }}
{{- $_ := set $files "SLUICE_REDIS_CA" "/redis-tls/ca.crt" }}
{{- if .Values.redis.tls.clientCertificate }}
{{- $_ := set $files "SLUICE_REDIS_CERT" "/redis-tls/tls.crt" }}
{{- $_ := set $files "SLUICE_REDIS_KEY" "/redis-tls/tls.key" }}
{{- end }}
{{- end }}
{{- if .Values.encryption.existingSecret }}{{ $_ := set $files "SLUICE_ENCRYPTION_KEY_FILE" "/encryption/keys" }}{{ end }}
{{- if .Values.trustedCa.existingSecret }}{{ $_ := set $files "NODE_EXTRA_CA_CERTS" "/trusted-ca/ca.crt" }}{{ end }}
{{- range $name, $value := merge $files .Values.env }}
{{- $text := include "sluice.text" $value }}
{{- if ne $text "" }}
- { name: {{ $name }}, value: {{ $text | quote }} }
{{- end }}
{{- end }}
{{- range $name, $key := .Values.secretEnv }}
{{- $from := dict "name" (include "sluice.secret" $) "key" $key "optional" (not (has $name (list "REDIS_URL" "SLUICE_ADMIN_PASSWORD"))) }}
{{- with $.Values.redis.urlSecret }}
{{- if and .name (eq $name "REDIS_URL") }}{{ $from = dict "name" .name "key" .key }}{{ end }}
{{- end }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {{ toJson $from }}
{{- end }}
{{- end }}
