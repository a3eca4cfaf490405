/** The entry of the page. */

import { render } from "preact";
import { start } from "./actions/session";
import { getState } from "./store";
import "./styles/index.css";
import { chooseLanguage, chooseTheme, remembered } from "./texts";
import { App } from "./view/App";

const language = remembered("language") ?? (navigator.language.startsWith("ko") ? "ko" : "en");
chooseLanguage(language === "ko" ? "ko" : "en");
const theme = remembered("theme");
chooseTheme(theme === "light" || theme === "dark" ? theme : getState().theme);
render(<App />, document.getElementById("app")!);
void start();
