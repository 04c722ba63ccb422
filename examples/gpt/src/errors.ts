/** A mistake that its message explains: the command line prints one line and no stack trace. */
export class UserError extends Error {
  override readonly name = "UserError";
}
