{{/* Names and labels. Every name is at most 63 characters long; a longer prefix is cut and keeps a hash of itself. */}}

{{- define "pipelines.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name)) | replace "." "-" -}}
{{- if gt (len $name) 36 -}}
{{- printf "%s-%s" ($name | trunc 27 | trimSuffix "-") ($name | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* The name of a part's objects: include "pipelines.name" (list $ "worker") */}}
{{- define "pipelines.name" -}}
{{- printf "%s-%s" (include "pipelines.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* What selects a part's pods. Immutable in a Deployment: never add to it. */}}
{{- define "pipelines.selectorLabels" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* What selects every pod of the release. Not app.kubernetes.io/name: the worker sets that of a flow pod to its deployment's. */}}
{{- define "pipelines.releaseLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* What selects a part's pods in a NetworkPolicy, flow pods included. */}}
{{- define "pipelines.partLabels" -}}
{{ include "pipelines.releaseLabels" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "pipelines.labels" -}}
{{ include "pipelines.selectorLabels" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/part-of: pipelines
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name ((index . 0).Chart.Version | replace "+" "_") }}
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image reference: include "pipelines.image" (list $ "etl") */}}
{{- define "pipelines.image" -}}
{{- $root := index . 0 -}}
{{- $images := $root.Values.images -}}
{{- $image := index $images (index . 1) -}}
{{- $ours := ternary $root.Chart.AppVersion "" (empty $images.tag) | default $images.tag -}}
{{- $name := ternary $image.repository (printf "%s/%s" (trimSuffix "/" $images.registry) $image.repository) (empty $images.registry) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default $ours) -}}
{{- end -}}
{{- end -}}

{{/* A pipeline's image: that of an entry of `images`, or the reference as it stands: include "pipelines.flowImage" (list $ IMAGE) */}}
{{- define "pipelines.flowImage" -}}
{{- $named := index (index . 0).Values.images (index . 1) -}}
{{- if kindIs "map" $named -}}
{{- include "pipelines.image" . -}}
{{- else -}}
{{- index . 1 -}}
{{- end -}}
{{- end -}}

{{- define "pipelines.databaseSecret" -}}
{{- if .Values.postgresql.enabled -}}
{{- .Values.postgresql.existingSecret | default (include "pipelines.name" (list . "postgresql")) -}}
{{- else -}}
{{- .Values.database.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "pipelines.flowRunServiceAccount" -}}
{{- .Values.flowRuns.serviceAccount.name | default (include "pipelines.name" (list . "flow-run")) -}}
{{- end -}}

{{- define "pipelines.authSecret" -}}
{{- .Values.prefectServer.auth.existingSecret | default (include "pipelines.name" (list . "prefect-auth")) -}}
{{- end -}}

{{- define "pipelines.prefectApiUrl" -}}
http://{{ include "pipelines.name" (list . "prefect-server") }}:4200{{ .Values.expose.prefect.path }}/api
{{- end -}}

{{- define "pipelines.sourceUrl" -}}
{{- .Values.flowRuns.sourceUrl | default (printf "http://%s:8090" (include "pipelines.name" (list . "source"))) -}}
{{- end -}}
