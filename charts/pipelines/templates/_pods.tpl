{{/* What every pod of the chart has in common: PodSecurity `restricted`, no service links, no token unless asked for. */}}

{{/* include "pipelines.podSecurity" 1000 : the pod's security context for a uid */}}
{{- define "pipelines.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "pipelines.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The start of a pod's spec: include "pipelines.podSpec" (list $ "orchestrator" 1000) */}}
{{- define "pipelines.podSpec" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "pipelines.name" (list $root (index . 1)) }}
automountServiceAccountToken: {{ eq (index . 1) "worker" }}
enableServiceLinks: false
securityContext:
  {{- include "pipelines.podSecurity" (index . 2) | nindent 2 }}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "pipelines.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* One environment variable from a Secret: include "pipelines.secretEnv" (list "NAME" "secret" "key") */}}
{{- define "pipelines.secretEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
{{- end -}}

{{/* Where a part sends its spans. OpenTelemetry's own variable: its library reads others beside it. */}}
{{- define "pipelines.telemetryEnv" -}}
{{- with .Values.telemetry.otlpEndpoint -}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end -}}
{{- end -}}

{{/* How a part speaks to the Prefect API. */}}
{{- define "pipelines.prefectClientEnv" -}}
- name: PREFECT_API_URL
  value: {{ include "pipelines.prefectApiUrl" . }}
{{ include "pipelines.secretEnv" (list "PREFECT_API_AUTH_STRING" (include "pipelines.authSecret" .) .Values.prefectServer.auth.key) }}
- name: PREFECT_HOME
  value: /tmp/prefect
# Prefect answers 500 while its database is away; without these codes its clients give up a run's last state.
- name: PREFECT_CLIENT_RETRY_EXTRA_CODES
  value: "500,504"
- name: PREFECT_CLIENT_MAX_RETRIES
  value: "8"
- name: DO_NOT_TRACK
  value: "1"
{{- end -}}

{{/* Waits for the chart's own PostgreSQL, so that nothing restarts on the way up. The role is named because libpq cannot ask for uid 1000's. */}}
{{- define "pipelines.waitForPostgresql" -}}
{{- if .Values.postgresql.enabled -}}
- name: wait-for-postgresql
  image: {{ include "pipelines.image" (list . "postgresql") }}
  imagePullPolicy: {{ .Values.images.pullPolicy }}
  command:
    - sh
    - -ec
    - |
      tries=0
      until pg_isready --quiet --host {{ include "pipelines.name" (list . "postgresql") }} --username postgres --timeout 2; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "PostgreSQL did not answer within 5 minutes" >&2; exit 1; }
        sleep 0.5
      done
  securityContext:
    {{- include "pipelines.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
{{- end -}}
{{- end -}}
