/** The icons of the page, 20 x 20, drawn with strokes. */

const PATHS = {
  select: "M5 3.5 15.5 9l-4.6 1.5L8.6 15z",
  box: "M4 4h12v12H4zM4 8V4h4",
  brush: "M16.5 3.5c-3 1-6 3.5-7.5 6.5l1.5 1.5c3-1.5 5.5-4.5 6-8zM8.5 11c-2 0-3 1-3 3 0 1-.8 1.7-2 2 3.5.8 6.5-.5 6.5-3.5z",
  undo: "M7 4 3.5 7.5 7 11M4 7.5h7.5a4.5 4.5 0 0 1 0 9H8",
  redo: "M13 4l3.5 3.5L13 11M16 7.5H8.5a4.5 4.5 0 0 0 0 9H12",
  eye: "M2 10s3-5.5 8-5.5S18 10 18 10s-3 5.5-8 5.5S2 10 2 10zM10 12.3a2.3 2.3 0 1 0 0-4.6 2.3 2.3 0 0 0 0 4.6z",
  split: "M3.5 4.5h13v11h-13zM10 2.5v15",
  grid: "M3.5 3.5h5.5v5.5H3.5zM11 3.5h5.5v5.5H11zM3.5 11h5.5v5.5H3.5zM11 11h5.5v5.5H11z",
  plus: "M10 4v12M4 10h12",
  close: "M5 5l10 10M15 5 5 15",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.7 10.5h7.6L14.5 6",
  download: "M10 3v9M6 8.5l4 4 4-4M4 16.5h12",
  upload: "M10 13V4M6 7.5l4-4 4 4M4 16.5h12",
  scan: "M3.5 7V3.5H7M13 3.5h3.5V7M16.5 13v3.5H13M7 16.5H3.5V13M6.5 10h7",
  graph: "M5.5 7a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM14.5 10a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM7.5 17a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM7.4 5.5l5.2 2M6 7l1 6M12.9 9.3l-4 4.4",
  dice: "M4 4h12v12H4zM7.5 7.5h.01M12.5 12.5h.01M10 10h.01",
  help: "M7.5 7.5a2.5 2.5 0 1 1 3.6 2.2c-.7.4-1.1.9-1.1 1.8M10 14.5h.01M10 17.5a7.5 7.5 0 1 0 0-15 7.5 7.5 0 0 0 0 15z",
  sun: "M10 13.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM10 2v2M10 16v2M2 10h2M16 10h2M4.3 4.3l1.4 1.4M14.3 14.3l1.4 1.4M4.3 15.7l1.4-1.4M14.3 5.7l1.4-1.4",
  moon: "M16.5 11.5A7 7 0 0 1 8.5 3.5a7 7 0 1 0 8 8z",
  image: "M3.5 4h13v12h-13zM3.5 13l4-4 3.5 3.5 2-2 3.5 3.5M12.5 7.5h.01",
  chevron: "M7 5l5 5-5 5",
  check: "M4 10.5l4 4 8-9",
  warning: "M10 3.5l7.5 13h-15zM10 8.5v3.5M10 14.3h.01",
  arrow: "M4 10h12M11.5 5.5 16 10l-4.5 4.5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 20 20" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The mark of the page: a small graph within a frame. */
export function Mark() {
  return (
    <svg class="mark" width="26" height="26" viewBox="0 0 26 26" aria-hidden="true">
      <rect x="1.5" y="1.5" width="23" height="23" rx="6" />
      <path d="M8 9.5 17.5 8 14 17.5z" />
      <circle cx="8" cy="9.5" r="2.6" />
      <circle cx="17.5" cy="8" r="2.6" />
      <circle cx="14" cy="17.5" r="2.6" />
    </svg>
  );
}
