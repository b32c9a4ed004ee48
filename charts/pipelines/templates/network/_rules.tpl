{{/* The arrows of the picture, as rules of NetworkPolicies. */}}

{{/* To or from pods of the release: include "pipelines.peers" (list $ "worker" "flow-run") */}}
{{- define "pipelines.peers" -}}
{{- $root := index . 0 -}}
{{- range rest . }}
- podSelector:
    matchLabels:
      {{- include "pipelines.partLabels" (list $root .) | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Egress to the databases, wherever they are. */}}
{{- define "pipelines.toDatabase" -}}
{{- if .Values.postgresql.enabled -}}
- to:
    {{- include "pipelines.peers" (list . "postgresql") | nindent 4 }}
  ports: [{port: 5432}]
{{- else if .Values.database.egress -}}
{{- toYaml .Values.database.egress }}
{{- else -}}
- ports: [{port: 5432}]
{{- end -}}
{{- end -}}

{{/* Egress to what the server's processes share, wherever it is. */}}
{{- define "pipelines.toBroker" -}}
{{- if .Values.valkey.enabled -}}
- to:
    {{- include "pipelines.peers" (list . "valkey") | nindent 4 }}
  ports: [{port: 6379}]
{{- else if .Values.broker.existingSecret -}}
{{- toYaml (.Values.broker.egress | default (list (dict "ports" (list (dict "port" 6379))))) }}
{{- end -}}
{{- end -}}

{{- define "pipelines.toPrefect" -}}
- to:
    {{- include "pipelines.peers" (list . "prefect-server") | nindent 4 }}
  ports: [{port: 4200}]
{{- end -}}

{{/* A policy's head: include "pipelines.policy" (list $ "worker") */}}
{{- define "pipelines.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "pipelines.name" . }}
  labels:
    {{- include "pipelines.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "pipelines.partLabels" . | nindent 6 }}
{{- end -}}
