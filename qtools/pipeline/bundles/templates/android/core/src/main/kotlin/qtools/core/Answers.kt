package qtools.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.exp

/** A class: index of the output, its label ("" where there is none), its share of 1. */
class Answer(val index: Int, val label: String, val probability: Double)

/** What the bytes of an output are worth, in float32. */
fun realNumbers(output: ByteArray, said: Output): FloatArray {
    val (type, scale, zero) = Triple(said.type, said.scale, said.zeroPoint)
    val buffer = ByteBuffer.wrap(output).order(ByteOrder.LITTLE_ENDIAN)
    return FloatArray(output.size / type.bytes) { at ->
        val code = when (type) {
            Type.INT8 -> output[at].toInt()
            Type.UINT8 -> output[at].toInt() and 255
            Type.INT16 -> buffer.getShort(2 * at).toInt()
            Type.FLOAT32 -> 0
        }
        val number = if (type == Type.FLOAT32) buffer.getFloat(4 * at) else (code - zero).toFloat()
        if (scale == null) number else number * scale.toFloat()
    }
}

/** The same as shares of 1. */
fun probabilities(numbers: FloatArray, contract: Contract): DoubleArray {
    val real = DoubleArray(numbers.size) { numbers[it].toDouble() }
    if (contract.output.meaning == Meaning.PROBABILITIES) return real
    val largest = real.maxOrNull() ?: return real
    val powers = DoubleArray(real.size) { exp(real[it] - largest) }
    val total = powers.sum()
    return DoubleArray(powers.size) { powers[it] / total }
}

/** The likeliest classes; of equal ones the first comes first. */
fun top(numbers: FloatArray, contract: Contract, count: Int = 5): List<Answer> {
    val shares = probabilities(numbers, contract)
    return numbers.indices
        .sortedByDescending { numbers[it] } // stable
        .take(count)
        .map { Answer(it, contract.labels.getOrElse(it) { "" }, shares[it]) }
}
