{{/* What etl.deploy registers: JSON made from the pipelines and the work pool. */}}
{{- define "pipelines.registration" -}}
{{- $deployments := list -}}
{{- range $pipeline := .Values.pipelines -}}
{{- $deployment := dict "entrypoint" .entrypoint "name" .deployment "workQueue" .workQueue "description" .description "tags" (.tags | default list) "parameters" (.parameters | default dict) "concurrencyLimit" .concurrencyLimit "schedules" (.schedules | default list) -}}
{{- $variables := dict -}}
{{- with .image -}}
{{- $_ := set $variables "image" (include "pipelines.flowImage" (list $ .)) -}}
{{- $_ := set $deployment "describedIn" (printf "/described/%s.json" $pipeline.name) -}}
{{- end -}}
{{- range $kind, $amounts := .resources | default dict -}}
{{- range $resource, $amount := $amounts -}}
{{- $_ := set $variables (printf "%s_%s" $resource (trimSuffix "s" $kind)) (toString $amount) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $deployment "jobVariables" $variables -}}
{{- $deployments = append $deployments $deployment -}}
{{- end -}}
{{- $pool := dict "name" .Values.workPool.name "type" "kubernetes" "concurrencyLimit" .Values.workPool.concurrencyLimit "baseJobTemplate" (include "pipelines.baseJobTemplate" . | fromJson) -}}
{{- dict "release" (printf "%s/%s" .Release.Namespace .Release.Name) "workPool" $pool "deployments" $deployments | toPrettyJson -}}
{{- end -}}

{{/* Names the Job and its ConfigMap by everything that they apply. */}}
{{- define "pipelines.registrationName" -}}
{{- $applied := printf "%s\n%s" (include "pipelines.registration" .) (include "pipelines.registrationPodTemplate" (list . "")) -}}
{{- include "pipelines.name" (list . (printf "register-%s" ($applied | sha256sum | trunc 8))) -}}
{{- end -}}

{{/* include "pipelines.registrationPodTemplate" (list $ CONFIGMAP) */}}
{{- define "pipelines.registrationPodTemplate" -}}
{{- include "pipelines.podTemplate" (list (index . 0) "registration" dict (include "pipelines.registrationPod" .)) -}}
{{- end -}}

{{- define "pipelines.registrationPod" -}}
{{- $root := index . 0 -}}
{{- with $root -}}
metadata:
  labels:
    {{- include "pipelines.selectorLabels" (list . "registration") | nindent 4 }}
spec:
  {{- include "pipelines.podSpec" (list . "registration" 10001) | nindent 2 }}
  restartPolicy: Never
  initContainers:
    {{- with include "pipelines.waitForPostgresql" . }}
    {{- . | nindent 4 }}
    {{- end }}
    - name: migrate-warehouse
      image: {{ include "pipelines.image" (list . "etl") }}
      imagePullPolicy: {{ .Values.images.pullPolicy }}
      command: [python, -m, etl.migrate, --wait, "300"]
      env:
        {{- include "pipelines.secretEnv" (list "ETL_WAREHOUSE_URL" (include "pipelines.databaseSecret" .) .Values.database.keys.warehouse) | nindent 8 }}
      {{- include "pipelines.registrationContainer" . | nindent 6 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
    {{- range $number, $pipeline := .Values.pipelines }}
    {{- if $pipeline.image }}
    # A flow is described by the image that holds it: nobody else can import it.
    - name: describe-{{ $number }}
      image: {{ include "pipelines.flowImage" (list $root $pipeline.image) | quote }}
      imagePullPolicy: {{ $root.Values.images.pullPolicy }}
      command: [python, -m, etl.description, {{ $pipeline.entrypoint | quote }}, {{ printf "/described/%s.json" $pipeline.name }}]
      env:
        - name: PREFECT_HOME
          value: /tmp/prefect
      {{- include "pipelines.registrationContainer" $root | nindent 6 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: described
          mountPath: /described
    {{- end }}
    {{- end }}
  containers:
    - name: register
      image: {{ include "pipelines.image" (list . "etl") }}
      imagePullPolicy: {{ .Values.images.pullPolicy }}
      command: [python, -m, etl.deploy, --config, /etc/pipelines/registration.json, --wait, "300"]
      env:
        {{- include "pipelines.prefectClientEnv" . | nindent 8 }}
      {{- include "pipelines.registrationContainer" . | nindent 6 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: registration
          mountPath: /etc/pipelines
          readOnly: true
        - name: described
          mountPath: /described
          readOnly: true
  volumes:
    - name: described
      emptyDir: {}
    - name: tmp
      emptyDir: {}
    - name: registration
      configMap:
        name: {{ index $ 1 | quote }}
{{- end -}}
{{- end -}}

{{- define "pipelines.registrationContainer" -}}
resources:
  requests: {cpu: 50m, memory: 192Mi}
  limits: {memory: 512Mi}
securityContext:
  {{- include "pipelines.containerSecurity" . | nindent 2 }}
{{- end -}}
