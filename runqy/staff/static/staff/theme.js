// Dark or light as chosen in the admin, where the theme's own scripts are not loaded.
{
  const chosen = localStorage.getItem("_x_adminTheme");
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  if (chosen === '"dark"' || (chosen !== '"light"' && isDark)) {
    document.documentElement.classList.add("dark");
  }
}
