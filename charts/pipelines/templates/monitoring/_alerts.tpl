{{/*
One file of alerts/ as this release's rule: include "pipelines.alert" (list $ "alerts/X.yaml" $names), where $names says what
each $name in it stands for. Prometheus' own variables ($labels, $value) and braces stay as they are: it is no template here.
*/}}
{{- define "pipelines.alert" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (index . 1) -}}
{{- range $name, $value := index . 2 -}}
{{- $text = $text | replace (printf "$%s" $name) (toString $value) -}}
{{- end -}}
{{- $rule := fromYaml $text -}}
{{- $page := printf "%s/%s.md" ($root.Values.monitoring.rules.runbookUrl | default "docs/runbooks" | trimSuffix "/") $rule.alert -}}
{{- $_ := set $rule.annotations "runbook_url" $page -}}
{{- toYaml (list $rule) -}}
{{- end -}}
