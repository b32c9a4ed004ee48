"""The page at `/`: what needs somebody, why, and the forms that mend it. Rendered here, it needs no script.

What it shows is read by `overview` and `stories`, drawn by `calendar` and the templates; what it changes goes through
the API's own routes, so that a form and a program are checked, counted and logged alike.
"""
