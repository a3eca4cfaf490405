/** What a browser remembers for the pages of this project. */

export function remember(name: string, value: string): void {
  try {
    localStorage.setItem(`sge.${name}`, value);
  } catch {
    // a frame without storage forgets
  }
}

export function remembered(name: string): string | null {
  try {
    return localStorage.getItem(`sge.${name}`);
  } catch {
    return null;
  }
}
