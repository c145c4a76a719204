// The content security policy allows no inline styles, and no evaluated code except Alpine's expressions.
htmx.config.includeIndicatorStyles = false;
htmx.config.allowEval = false;
