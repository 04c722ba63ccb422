// Written by `pnpm generate` from the kernels that take an activation. Do not edit.

/** The names that those kernels use for something else. */
export const reserved: ReadonlySet<string> = new Set(
  `
  H K KH KW N Params T TH TW W WG a affine ah al all angle at b batch before begin bh bias biased bits bl
  blocks blocksO c channel channels chunk chunks col cols column columns count countH countW counter d da db
  dpadded dropped dw dx dy dz e end enter eps every everyH everyW factor finish finish1 finish4 first firstH
  firstTap firstW found g gradAt group groups h h0 half hop i id image inH inW index inner input inside j join
  k key kh kw lane last lda ldb ldc left line m main maskBits mean middle mirror mode moments momentum mulHigh
  n next normal_ o origin originH originW outer output p pack packed padded paddedH paddedW params part partial
  partialBias partials parts pcg4d philox pitchH pitchW pixel pixels place plane planes position positions
  product q quad quads r ra radius ranges rb reduce repeat rng round row rows rstd runningMean runningVar s
  scale seed series share sigmoid sigmoidGrad size skip squares start stream stride strideA strideB sum sums t
  take tap tapBlocks taps tapsBefore tapsH tapsOf team th thread threshold through tile tiles to top total
  tracked turn turned tw u uniform_ unit update v va value values variance vb w weight weightAt weights wg
  width workgroupMax workgroupSum wrap write x xhat y z
`.match(/\w+/g),
);
