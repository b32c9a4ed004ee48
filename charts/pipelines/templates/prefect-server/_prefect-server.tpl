{{/* What the Prefect server's processes have in common: the API, its background services, and their migration. */}}

{{- define "pipelines.prefectContainer" -}}
image: {{ include "pipelines.image" (list . "prefect") }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  {{- include "pipelines.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{/* All that the migration and the schema gate are told. */}}
{{- define "pipelines.prefectDatabaseEnv" -}}
{{ include "pipelines.secretEnv" (list "PREFECT_SERVER_DATABASE_CONNECTION_URL" (include "pipelines.databaseSecret" .) .Values.database.keys.prefect) }}
- name: PREFECT_HOME
  value: /tmp/prefect
- name: DO_NOT_TRACK
  value: "1"
{{- end -}}

{{/* The schema's revision, not mere connectivity: no server meets a database that it does not know, or that is half migrated. */}}
{{- define "pipelines.prefectSchemaGate" -}}
- name: schema
  command: [python, -m, prefect_schema, check, --wait, "300"]
  {{- include "pipelines.prefectContainer" . | nindent 2 }}
  resources:
    requests: {cpu: 10m, memory: 64Mi}
    limits: {memory: 256Mi}
  env:
    {{- include "pipelines.prefectDatabaseEnv" . | nindent 4 }}
{{- end -}}

{{- define "pipelines.prefectServerEnv" -}}
{{ include "pipelines.prefectDatabaseEnv" . }}
{{ include "pipelines.secretEnv" (list "PREFECT_SERVER_API_AUTH_STRING" (include "pipelines.authSecret" .) .Values.prefectServer.auth.key) }}
# What a burst of runs took is given back to the node: after a hundred of them the server keeps 233 MB, without these 251.
- name: MALLOC_ARENA_MAX
  value: "2"
- name: MALLOC_TRIM_THRESHOLD_
  value: "131072"
- name: PREFECT_SERVER_DATABASE_MIGRATE_ON_START
  value: "false"
{{- with .Values.expose.prefect.path }}
- name: PREFECT_SERVER_API_BASE_PATH
  value: {{ . }}/api
- name: PREFECT_SERVER_UI_SERVE_BASE
  value: {{ . }}
{{- end }}
- name: PREFECT_SERVER_UI_STATIC_DIRECTORY
  value: /tmp/ui
- name: PREFECT_UI_API_URL
  value: {{ include "pipelines.prefectUiApiUrl" . }}
- name: PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT
  value: "false"
- name: PREFECT_SERVER_ANALYTICS_ENABLED
  value: "false"
- name: PREFECT_SERVER_METRICS_ENABLED
  value: "true"
# Longer than any client keeps an idle connection, so that none is closed under a request.
- name: PREFECT_SERVER_API_KEEPALIVE_TIMEOUT
  value: "75"
# As many connections as Prefect would open, but kept: an extra one, closed after a moment, has asked the catalog for its types
# and prepared each statement anew: a fifth of what the database did in a backfill.
- name: PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE
  value: "15"
- name: PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW
  value: "0"
{{- if include "pipelines.hasBroker" . }}
# All that server processes share, together: with one of these left in a process's memory, pods would miss each other's
# events, slots and cancellations. The last reads a URL of its own; without it cancellations hang.
- name: PREFECT_SERVER_EVENTS_MESSAGING_BROKER
  value: prefect_redis.messaging
- name: PREFECT_SERVER_EVENTS_MESSAGING_CACHE
  value: prefect_redis.messaging
- name: PREFECT_SERVER_EVENTS_CAUSAL_ORDERING
  value: prefect_redis.ordering
- name: PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE
  value: prefect_redis.lease_storage
- name: PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE
  value: prefect_redis.cleanup_queue
{{- range list "PREFECT_REDIS_MESSAGING_URL" "PREFECT_SERVER_DOCKET_URL" "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL" }}
{{ include "pipelines.secretEnv" (list . (include "pipelines.brokerSecret" $) $.Values.broker.key) }}
{{- end }}
{{- else }}
# Leases of concurrency slots outlive the process. Kept in its memory, a restart would cancel a run that was about to start
# under a deployment's limit, or leak its slot for ever.
- name: PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE
  value: prefect.server.concurrency.lease_storage.filesystem
{{- end }}
# A cancelled run that nothing ends is ended after this; the orchestrator ends its own runs before.
- name: PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS
  value: "120"
- name: PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED
  value: events,flow_runs
- name: PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD
  value: {{ mul .Values.prefectServer.retention.flowRunDays 86400 | quote }}
- name: PREFECT_SERVER_EVENTS_RETENTION_PERIOD
  # Not as seconds, which Prefect takes for the setting above and refuses for this one.
  value: P{{ .Values.prefectServer.retention.eventDays }}D
{{- end -}}

{{- define "pipelines.hasBroker" -}}
{{- if or .Values.valkey.enabled .Values.broker.existingSecret -}}yes{{- end -}}
{{- end -}}

{{- define "pipelines.brokerSecret" -}}
{{- .Values.broker.existingSecret | default (include "pipelines.name" (list . "valkey")) -}}
{{- end -}}

{{/* Where a browser finds Prefect's page, empty where that is not known. */}}
{{- define "pipelines.prefectUiUrl" -}}
{{- $prefect := .Values.expose.prefect -}}
{{- if .Values.orchestrator.prefectUiUrl -}}
{{- .Values.orchestrator.prefectUiUrl -}}
{{- else if and (ne .Values.expose.by "none") (or $prefect.host $prefect.path) -}}
{{- include "pipelines.prefectUiApiUrl" . | trimSuffix "/api" -}}
{{- end -}}
{{- end -}}

{{/* Where a browser finds Prefect's API. */}}
{{- define "pipelines.prefectUiApiUrl" -}}
{{- $prefect := .Values.expose.prefect -}}
{{- $scheme := ternary "https" "http" .Values.expose.tls.enabled -}}
{{- if or (eq .Values.expose.by "none") (not (or $prefect.host $prefect.path)) -}}
{{- .Values.prefectServer.uiApiUrl | default (printf "http://localhost:4200%s/api" $prefect.path) -}}
{{- else -}}
{{- printf "%s://%s%s/api" $scheme ($prefect.host | default .Values.expose.host) $prefect.path -}}
{{- end -}}
{{- end -}}
