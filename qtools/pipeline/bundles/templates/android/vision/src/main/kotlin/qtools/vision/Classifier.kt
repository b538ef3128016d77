package qtools.vision

import android.content.Context
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.tensorflow.lite.Delegate
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.Tensor
import qtools.core.Answer
import qtools.core.Contract
import qtools.core.Picture
import qtools.core.Type
import qtools.core.prepare
import qtools.core.realNumbers
import qtools.core.top

/**
 * How the network is run.
 *
 * @property threads Of the CPU.
 * @property xnnpack Whether the CPU runs XNNPACK's kernels, which `qtools verify` ran too, or LiteRT's own.
 * @property delegates Made by the app, which closes them after the classifier. One that computes in other widths (a GPU
 *   in float16) answers otherwise than what was audited: replay the vectors with it first.
 */
class RunOptions(val threads: Int = 4, val xnnpack: Boolean = true, val delegates: List<Delegate> = emptyList())

/** The artifact with its contract. One picture at a time: calls from several threads wait for each other. */
class Classifier private constructor(val contract: Contract, private val interpreter: Interpreter) : AutoCloseable {
    private val input = direct(interpreter.getInputTensor(0))
    private val output = direct(interpreter.getOutputTensor(0))

    /** The bytes of the output for the bytes of an input tensor, both little-endian. */
    @Synchronized
    fun run(tensor: ByteArray): ByteArray {
        require(tensor.size == input.capacity()) { "${tensor.size} bytes instead of ${input.capacity()}" }
        input.rewind()
        input.put(tensor)
        input.rewind()
        output.rewind()
        interpreter.run(input, output)
        output.rewind()
        return ByteArray(output.capacity()).also { output.get(it) }
    }

    /** The real numbers of the output for a picture, one per class. */
    fun numbers(picture: Picture): FloatArray = realNumbers(run(prepare(picture, contract)), contract)

    /** The likeliest classes of a picture. */
    fun classify(picture: Picture, count: Int = 5): List<Answer> = top(numbers(picture), contract, count)

    @Synchronized
    override fun close() = interpreter.close()

    companion object {
        const val CONTRACT = "contract.json"

        /**
         * Opens the artifact among the assets; takes a moment, so not on the main thread.
         *
         * @throws IllegalArgumentException if the file has other tensors than its contract says.
         */
        fun open(context: Context, options: RunOptions = RunOptions()): Classifier {
            val contract = Contract.parse(context.assets.open(CONTRACT).use { it.readBytes() }.decodeToString())
            val asked = Interpreter.Options().setNumThreads(options.threads).setUseXNNPACK(options.xnnpack)
            options.delegates.forEach { asked.addDelegate(it) }
            val interpreter = Interpreter(mapped(context, contract.artifact.name), asked)
            try {
                check(interpreter.getInputTensor(0), contract.input.name, contract.input.shape, contract.input.type)
                check(interpreter.getOutputTensor(0), contract.output.name, contract.output.shape, contract.output.type)
            } catch (error: IllegalArgumentException) {
                interpreter.close()
                throw error
            }
            return Classifier(contract, interpreter)
        }

        /** The Android Gradle plugin leaves .tflite files uncompressed, so that they can be mapped. */
        private fun mapped(context: Context, name: String): ByteBuffer =
            context.assets.openFd(name).use { file ->
                FileInputStream(file.fileDescriptor).channel.use {
                    it.map(FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
                }
            }

        private fun check(tensor: Tensor, name: String, shape: List<Int>, type: Type) {
            require(tensor.shape().toList() == shape && tensor.dataType().name == type.name) {
                "$name is ${tensor.dataType()} ${tensor.shape().toList()} in the file, $type $shape in the contract"
            }
        }

        private fun direct(tensor: Tensor): ByteBuffer =
            ByteBuffer.allocateDirect(tensor.numBytes()).order(ByteOrder.nativeOrder())
    }
}
