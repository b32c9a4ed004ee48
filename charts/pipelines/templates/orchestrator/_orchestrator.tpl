{{/* What the orchestrator's pods have in common: the service itself, its schema gate and the migration. */}}
{{- define "pipelines.orchestratorContainer" -}}
image: {{ include "pipelines.image" (list . "orchestrator") }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
env:
  {{- include "pipelines.secretEnv" (list "ORCHESTRATOR_DATABASE_URL" (include "pipelines.databaseSecret" .) .Values.database.keys.orchestrator) | nindent 2 }}
  {{- include "pipelines.secretEnv" (list "ORCHESTRATOR_PREFECT_AUTH_STRING" (include "pipelines.authSecret" .) .Values.prefectServer.auth.key) | nindent 2 }}
  - name: ORCHESTRATOR_PREFECT_API_URL
    value: {{ include "pipelines.prefectApiUrl" . }}
  - name: ORCHESTRATOR_PIPELINES
    value: {{ include "pipelines.offered" . | quote }}
  - name: ORCHESTRATOR_POLL_SECONDS
    value: {{ .Values.orchestrator.pollSeconds | quote }}
  - name: ORCHESTRATOR_LOG_LEVEL
    value: {{ .Values.orchestrator.logLevel }}
securityContext:
  {{- set (include "pipelines.containerSecurity" . | fromYaml) "readOnlyRootFilesystem" .Values.orchestrator.readOnlyRootFilesystem | toYaml | nindent 2 }}
resources:
  {{- toYaml .Values.orchestrator.resources | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{/* The pipelines as the orchestrator offers them: JSON. */}}
{{- define "pipelines.offered" -}}
{{- $offered := list -}}
{{- range .Values.pipelines -}}
{{- $offered = append $offered (dict "name" .name "deployment" (printf "%s/%s" .flow .deployment)) -}}
{{- end -}}
{{- $offered | toJson -}}
{{- end -}}

{{- define "pipelines.migrationPod" -}}
metadata:
  labels:
    {{- include "pipelines.selectorLabels" (list . "orchestrator-migration") | nindent 4 }}
spec:
  {{- include "pipelines.podSpec" (list . "orchestrator" 1000) | nindent 2 }}
  {{- include "pipelines.scheduling" .Values.orchestrator | nindent 2 }}
  restartPolicy: Never
  {{- with include "pipelines.waitForPostgresql" . }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: migrate
      command: [python, -m, orchestrator, migrate]
      {{- include "pipelines.orchestratorContainer" . | nindent 6 }}
  volumes:
    - name: tmp
      emptyDir: {}
{{- end -}}
