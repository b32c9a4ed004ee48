{{/* What the orchestrator's containers have in common: the service itself, its schema gate and the migration. */}}
{{- define "pipelines.orchestratorContainer" -}}
image: {{ include "pipelines.image" (list . "orchestrator") }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  {{- set (include "pipelines.containerSecurity" . | fromYaml) "readOnlyRootFilesystem" .Values.orchestrator.readOnlyRootFilesystem | toYaml | nindent 2 }}
resources:
  {{- toYaml .Values.orchestrator.resources | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{/* All that the migration and the schema gate are told: their Job is not made anew when only the service's settings change. */}}
{{- define "pipelines.orchestratorDatabaseEnv" -}}
{{ include "pipelines.secretEnv" (list "ORCHESTRATOR_DATABASE_URL" (include "pipelines.databaseSecret" .) .Values.database.keys.orchestrator) }}
- name: ORCHESTRATOR_LOG_LEVEL
  value: {{ .Values.orchestrator.logLevel }}
{{- end -}}

{{- define "pipelines.orchestratorEnv" -}}
{{ include "pipelines.orchestratorDatabaseEnv" . }}
{{ include "pipelines.secretEnv" (list "ORCHESTRATOR_PREFECT_AUTH_STRING" (include "pipelines.authSecret" .) .Values.prefectServer.auth.key) }}
- name: ORCHESTRATOR_PREFECT_API_URL
  value: {{ include "pipelines.prefectApiUrl" . }}
{{- with include "pipelines.prefectUiUrl" . }}
- name: ORCHESTRATOR_PREFECT_UI_URL
  value: {{ . | quote }}
{{- end }}
- name: ORCHESTRATOR_PIPELINES
  value: {{ include "pipelines.offered" . | quote }}
- name: ORCHESTRATOR_POLL_SECONDS
  value: {{ .Values.orchestrator.pollSeconds | quote }}
{{- with .Values.orchestrator.auth }}
- name: ORCHESTRATOR_AUTH
  value: {{ .mode }}
{{- if eq .mode "apiKey" }}
- name: ORCHESTRATOR_API_KEYS_FILE
  value: /etc/orchestrator/keys.json
{{- end }}
{{- with .tokenAudience }}
- name: ORCHESTRATOR_TOKEN_AUDIENCE
  value: {{ . | quote }}
{{- end }}
- name: ORCHESTRATOR_METRICS_OPEN
  value: {{ .metricsOpen | quote }}
{{- end }}
{{- with .Values.orchestrator.limits }}
- name: ORCHESTRATOR_READS_PER_SECOND
  value: {{ .readsPerSecond | quote }}
- name: ORCHESTRATOR_WRITES_PER_SECOND
  value: {{ .writesPerSecond | quote }}
- name: ORCHESTRATOR_REFUSALS_PER_SECOND
  value: {{ .refusalsPerSecond | quote }}
- name: ORCHESTRATOR_STREAMS
  value: {{ .streams | quote }}
- name: ORCHESTRATOR_STREAMS_PER_CALLER
  value: {{ .streamsPerCaller | quote }}
{{- end }}
- name: ORCHESTRATOR_WORKER_QUERY_SECONDS
  value: {{ .Values.worker.querySeconds | quote }}
- name: ORCHESTRATOR_KUBERNETES_NAMESPACE
  value: {{ .Release.Namespace }}
{{- with include "pipelines.telemetryEnv" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The pipelines as the orchestrator offers them: JSON. */}}
{{- define "pipelines.offered" -}}
{{- $offered := list -}}
{{- $settings := dict "maxAttempts" "max_attempts" "startDeadlineSeconds" "start_deadline_seconds" "runDeadlineSeconds" "run_deadline_seconds" "missedSchedules" "missed_schedules" "missedAfterSeconds" "missed_after_seconds" -}}
{{- range $pipeline := .Values.pipelines -}}
{{- $one := dict "name" .name "deployment" (printf "%s/%s" .flow .deployment) -}}
{{- range $value, $setting := $settings -}}
{{- if hasKey $pipeline $value -}}{{- $_ := set $one $setting (index $pipeline $value) -}}{{- end -}}
{{- end -}}
{{- $offered = append $offered $one -}}
{{- end -}}
{{- $offered | toJson -}}
{{- end -}}

{{- define "pipelines.migrationPod" -}}
metadata:
  labels:
    {{- include "pipelines.selectorLabels" (list . "orchestrator-migration") | nindent 4 }}
spec:
  {{- include "pipelines.podSpec" (list . "orchestrator" 10001) | nindent 2 }}
  restartPolicy: Never
  {{- with include "pipelines.waitForPostgresql" . }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: migrate
      command: [python, -m, orchestrator, migrate]
      env:
        {{- include "pipelines.orchestratorDatabaseEnv" . | nindent 8 }}
      {{- include "pipelines.orchestratorContainer" . | nindent 6 }}
  volumes:
    - name: tmp
      emptyDir: {}
{{- end -}}
