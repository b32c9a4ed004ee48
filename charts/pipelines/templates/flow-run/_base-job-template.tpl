{{/*
The work pool's base job template, as JSON: Prefect's own variables, and a Job that a namespace enforcing `restricted`
admits. The container's environment is a list here, so that Prefect puts its own before ours, and ours can name Secrets.
*/}}
{{- define "pipelines.baseJobTemplate" -}}
{{- $requests := .Values.flowRuns.resources.requests | default dict -}}
{{- $limits := .Values.flowRuns.resources.limits | default dict -}}
{{- $template := tpl (.Files.Get "files/base-job-template.yaml") . | fromYaml -}}
{{- if hasKey $template "Error" -}}{{- fail (printf "files/base-job-template.yaml: %s" $template.Error) -}}{{- end -}}
{{- $pod := $template.job_configuration.job_manifest.spec.template -}}
{{- $container := index $pod.spec.containers 0 -}}
{{- range $name, $value := .Values.flowRuns.env -}}
{{- $_ := set $container "env" (append $container.env (dict "name" $name "value" (toString $value))) -}}
{{- end -}}
{{- range $variable, $value := dict "cpu_request" $requests.cpu "memory_request" $requests.memory "cpu_limit" $limits.cpu "memory_limit" $limits.memory -}}
{{- with $value -}}{{- $_ := set (index $template.variables.properties $variable) "default" (toString .) -}}{{- end -}}
{{- end -}}
{{- include "pipelines.openPod" (list . "flow-run" .Values.flowRuns.pod $pod) -}}
{{- $template | toJson -}}
{{- end -}}
