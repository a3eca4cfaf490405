/** How far an edit is: its place in line or its step, and the button that cancels it. */

import { cancelJob } from "../actions/edits";
import { isRunning, useStore } from "../store";
import { t } from "../texts";
import { Icon } from "./icons";

export function Progress() {
  const job = useStore((s) => s.job);
  const running = useStore(isRunning);
  if (!job || !running) return null;
  const queued = job.state === "queued";
  const stage = job.stage ? t(job.stage) : t("preparing");
  const words = queued
    ? t("inLine", { place: job.place })
    : [job.variants > 1 ? t("variantOf", { n: job.variant + 1, all: job.variants }) : "", stage, job.steps ? `${job.step}/${job.steps}` : ""]
        .filter(Boolean)
        .join(" · ");
  const percent = Math.round(100 * job.fraction);
  return (
    <div class="progress" role="status" aria-live="polite">
      <div class="bar" role="progressbar" aria-label={t("progress")} aria-valuenow={percent} aria-valuemin={0} aria-valuemax={100}>
        <div class="done" style={{ width: `${percent}%` }} />
      </div>
      <span class="words">{words}</span>
      <button onClick={() => void cancelJob()}>
        <Icon name="close" size={16} /> {t("cancel")}
      </button>
    </div>
  );
}
