{{- define "whisper.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "whisper.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "whisper.labels" -}}
{{ include "whisper.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "whisper.env" -}}
- name: WHISPER_BACKEND_CONFIG
  value: /etc/whisper-backend-api/config.toml
- name: WHISPER_BACKEND__MODELS__FOLDER
  value: /models
- name: WHISPER_MODEL
  value: {{ .Values.model | quote }}
{{- with .Values.models.endpoint }}
- name: HF_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "whisper.mounts" -}}
- name: config
  mountPath: /etc/whisper-backend-api
  readOnly: true
- name: models
  mountPath: /models
- name: spool
  mountPath: /var/tmp
{{- end -}}

{{- define "whisper.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
