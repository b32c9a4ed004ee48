{{/* What every pod of the chart has in common: PodSecurity `restricted`, no service links, no token unless asked for, the values' doors. */}}

{{/* include "pipelines.podSecurity" 10001 : the pod's security context for a uid */}}
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

{{/* The start of a pod's spec: include "pipelines.podSpec" (list $ "orchestrator" 10001) */}}
{{- define "pipelines.podSpec" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "pipelines.name" (list $root (index . 1)) }}
automountServiceAccountToken: {{ eq (index . 1) "worker" }}
enableServiceLinks: false
securityContext:
  {{- include "pipelines.podSecurity" (index . 2) | nindent 2 }}
{{- end -}}

{{/*
A pod template, opened to the values `pods` and, where given, to a part's own `pod`:

    include "pipelines.podTemplate" (list $ "orchestrator" .Values.orchestrator.pod $template)

The template is YAML with metadata and spec. The labels that select the pod stay as they are.
*/}}
{{- define "pipelines.podTemplate" -}}
{{- $template := index . 3 | fromYaml -}}
{{- if hasKey $template "Error" -}}{{- fail (printf "the pod template of %s: %s" (index . 1) $template.Error) -}}{{- end -}}
{{- include "pipelines.openPod" (list (index . 0) (index . 1) (index . 2) $template) -}}
{{- $template | toYaml -}}
{{- end -}}

{{/* The same for a template that is a dict; it is changed in place. Lists of a part replace those of `pods`, maps are merged. */}}
{{- define "pipelines.openPod" -}}
{{- $root := index . 0 -}}
{{- $template := index . 3 -}}
{{- $spec := $template.spec -}}
{{- $pod := mergeOverwrite (deepCopy $root.Values.pods) (deepCopy (index . 2 | default dict)) -}}
{{- with $pod.annotations -}}
{{- $_ := set $template.metadata "annotations" (mergeOverwrite (deepCopy .) ($template.metadata.annotations | default dict)) -}}
{{- end -}}
{{- $_ := set $template.metadata "labels" (mergeOverwrite (deepCopy $pod.labels) $template.metadata.labels) -}}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "priorityClassName" -}}
{{- with index $pod $field -}}{{- $_ := set $spec $field . -}}{{- end -}}
{{- end -}}
{{- with $pod.topologySpreadConstraints -}}
{{- $constraints := list -}}
{{- range . -}}
{{- /* Without a selector a constraint counts no pod at all: the part's own pods are meant. */ -}}
{{- $own := dict "matchLabels" (include "pipelines.partLabels" (list $root (index $ 1)) | fromYaml) -}}
{{- $constraints = append $constraints (ternary . (set (deepCopy .) "labelSelector" $own) (hasKey . "labelSelector")) -}}
{{- end -}}
{{- $_ := set $spec "topologySpreadConstraints" $constraints -}}
{{- end -}}
{{- with $root.Values.images.pullSecrets -}}{{- $_ := set $spec "imagePullSecrets" . -}}{{- end -}}
{{- with $pod.extraVolumes -}}{{- $_ := set $spec "volumes" (concat ($spec.volumes | default list) .) -}}{{- end -}}
{{- range $container := concat ($spec.initContainers | default list) $spec.containers -}}
{{- with $pod.extraEnv -}}
{{- /* One of a name that is there already replaces it: a list with both is refused by server-side apply. */ -}}
{{- $names := list -}}
{{- range . -}}{{- $names = append $names .name -}}{{- end -}}
{{- $env := list -}}
{{- range $container.env -}}{{- if not (has .name $names) -}}{{- $env = append $env . -}}{{- end -}}{{- end -}}
{{- $_ := set $container "env" (concat $env .) -}}
{{- end -}}
{{- with $pod.extraEnvFrom -}}{{- $_ := set $container "envFrom" . -}}{{- end -}}
{{- with $pod.extraVolumeMounts -}}{{- $_ := set $container "volumeMounts" (concat ($container.volumeMounts | default list) .) -}}{{- end -}}
{{- end -}}
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

{{/* Waits for the chart's own PostgreSQL, so that nothing restarts on the way up. The role is named because libpq cannot ask for uid 10001's. */}}
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
