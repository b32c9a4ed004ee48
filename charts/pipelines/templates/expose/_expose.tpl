{{/*
Who is reached from outside, one rule each: a JSON list of {host, path, service, port}. The longer path comes first, for
proxies that take the first that fits.
*/}}
{{- define "pipelines.exposed" -}}
{{- $expose := .Values.expose -}}
{{- $rules := list -}}
{{- if or $expose.prefect.host $expose.prefect.path -}}
{{- $rules = append $rules (dict "host" ($expose.prefect.host | default $expose.host) "path" ($expose.prefect.path | default "/") "service" (include "pipelines.name" (list . "prefect-server")) "port" 4200) -}}
{{- end -}}
{{- $rules = append $rules (dict "host" $expose.host "path" "/" "service" (include "pipelines.name" (list . "orchestrator")) "port" 8080) -}}
{{- $rules | toJson -}}
{{- end -}}
