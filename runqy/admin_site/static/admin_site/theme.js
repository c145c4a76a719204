// Dark or light mode as chosen in the admin, on pages without the theme's own scripts.
{
  const chosen = localStorage.getItem("_x_adminTheme");
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  if (chosen === '"dark"' || (chosen !== '"light"' && isDark)) {
    document.documentElement.classList.add("dark", "dark-mode"); // the latter is Swagger's
  }
}
